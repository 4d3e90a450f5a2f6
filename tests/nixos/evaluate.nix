# Evaluates a configuration with the modules of this repository's flake, and NixOS as far as it is stood in for.
{ configuration, release ? "26.05", pkgs ? { } }:
let
  lib = import ./lib.nix;
  modules = ((import ../../flake.nix).outputs { self.nixosModules = modules; }).nixosModules;
  # a package is a directory with bin
  package = name: { type = "derivation"; inherit name; outPath = "/run/current-system/sw"; };
  python = version: {
    python3 = package "python3" // rec {
      inherit version;
      pythonVersion = version;
      pkgs.ansible-core = package "ansible-core" // { version = if lib.versionAtLeast release "25.11" then "2.19.3" else "2.17.6"; };
      pkgs.apprise = package "apprise";
      pkgs.jmespath = package "jmespath";
      withPackages = choose: package "python3-env" // { meta.has = map (each: each.name) (choose pkgs); };
    };
  };
  all = lib.listToAttrs (map (name: lib.nameValuePair name (package name))
    [ "coreutils" "findutils" "git" "gnugrep" "gnused" "jq" "nix" "openssh" "systemd" "util-linux" ])
  // { runtimeShell = "/run/current-system/sw/bin/bash"; }
  // python "3.12" // pkgs;
  system = lib.evalModules {
    specialArgs.pkgs = all;
    modules = [
      (import ./nixos.nix { inherit release; })
      modules.default
      # as a file may import one that the flake has imported already
      modules.host
      configuration
    ];
  };
  inherit (system) config options;
  failed = lib.filter (each: !each.assertion) config.assertions;
in
if failed != [ ] then throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (each: "- ${each.message}") failed}"
else { inherit config options lib; pkgs = all; }
