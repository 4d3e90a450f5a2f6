# Stand-in for the options of NixOS that nix/*.nix set or read, as a release declares them, and for what it makes of them.
{ release }:
{ config, lib, pkgs, ... }:
let
  inherit (lib) concatMapStringsSep concatStringsSep mapAttrs optionalAttrs types versionAtLeast;
  inherit (builtins) attrNames attrValues concatLists isBool isList;

  option = type: lib.mkOption { inherit type; };
  optionWith = default: type: lib.mkOption { inherit default type; };
  strings = optionWith [ ] (types.listOf types.str);
  maybe = type: optionWith null (types.nullOr type);
  flag = default: optionWith default types.bool;

  # Lists of several modules come together, all else has to be the same.
  unitOption = types.unspecified // {
    merge = loc: values: if builtins.all isList values then concatLists values else types.unspecified.merge loc values;
  };
  unit = {
    description = optionWith "" types.str;
    wants = strings;
    requires = strings;
    after = strings;
    before = strings;
    conflicts = strings;
    wantedBy = strings;
    onFailure = strings;
    unitConfig = optionWith { } (types.attrsOf unitOption);
  };
  service = unit // {
    environment = optionWith { } (types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ])));
    path = optionWith [ ] (types.listOf (types.oneOf [ types.package types.str ]));
    restartIfChanged = flag true;
    stopIfChanged = flag true;
    serviceConfig = optionWith { } (types.attrsOf unitOption);
  };
  sudo = {
    enable = optionWith true types.bool;
    execWheelOnly = flag false;
    extraRules = optionWith [ ] (types.listOf (types.submodule {
      users = strings;
      groups = strings;
      runAs = optionWith "ALL:ALL" types.str;
      commands = optionWith [ ] (types.listOf types.raw);
    }));
  };
  limit = default: lib.mkOption { inherit default; type = types.nullOr types.int; };

  # ---- what NixOS makes of it, as text ----
  text = value: if isBool value then (if value then "true" else "false") else toString value;
  lines = attributes: concatMapStringsSep "\n"
    (name: concatMapStringsSep "\n" (value: "${name}=${text value}") (lib.optionals (attributes.${name} != null) (
      if isList attributes.${name} then attributes.${name} else [ attributes.${name} ])))
    (attrNames attributes);
  listed = name: values: optionalAttrs (values != [ ]) { ${name} = concatStringsSep " " values; };
  section = unit: lines ({ Description = unit.description; }
    // listed "Wants" unit.wants // listed "Requires" unit.requires // listed "After" unit.after // listed "Before" unit.before
    // listed "Conflicts" unit.conflicts // listed "OnFailure" unit.onFailure
    // mapAttrs (_: value: if isList value then concatStringsSep " " value else value) unit.unitConfig);
  # NixOS adds these to each service
  programs = [ pkgs.coreutils pkgs.findutils pkgs.gnugrep pkgs.gnused pkgs.systemd ];
  serviceText = service: ''
    [Unit]
    ${section service}

    [Service]
    ${concatMapStringsSep "\n"
      (name: "Environment=${builtins.toJSON "${name}=${service.environment.${name}}"}")
      (attrNames service.environment)}
    Environment="PATH=${concatMapStringsSep ":" (package: "${package}/bin") (service.path ++ programs)}"
    ${lib.optionalString (!service.restartIfChanged) "X-RestartIfChanged=false"}
    ${lines service.serviceConfig}
  '';
  timerText = timer: ''
    [Unit]
    ${section timer}

    [Timer]
    ${lines timer.timerConfig}
  '';
  suffixed = suffix: make: attributes: lib.listToAttrs (map
    (name: lib.nameValuePair "${name}.${suffix}" { text = make attributes.${name}; inherit (attributes.${name}) wantedBy; })
    (attrNames attributes));

  directive = name: value:
    if builtins.elem name [ "files" "enable" ] || value == null then [ ]
    else if name == "frequency" then [ value ]
    else if value == true then [ name ]
    else if value == false then [ "no${name}" ]
    else [ "${name} ${toString value}" ];
  rotations = concatMapStringsSep "\n"
    (each: "\"${each.files}\" {\n  ${concatStringsSep "\n  " (concatLists (attrValues (mapAttrs directive each)))}\n}")
    (attrValues config.services.logrotate.settings);
  rules = concatMapStringsSep "\n"
    (rule: concatMapStringsSep "\n"
      (user: "${user} ALL=(${rule.runAs}) ${concatMapStringsSep ", "
        (each: "${concatStringsSep ":" each.options}: ${each.command}") rule.commands}")
      rule.users)
    config.security.sudo.extraRules;
  mounts = concatMapStringsSep "\n"
    (path: let fs = config.fileSystems.${path}; in "${fs.device} ${path} ${fs.fsType} ${concatStringsSep "," fs.options} 0 0")
    (attrNames config.fileSystems);
in
{
  options = {
    assertions = optionWith [ ] (types.listOf types.raw);
    made = lib.mkOption { type = types.raw; description = "Stands for system.build: texts by name."; };

    boot.kernelParams = strings;
    boot.loader = {
      grub.configurationLimit = limit 100;
      generic-extlinux-compatible.configurationLimit = limit 20;
      systemd-boot = {
        enable = flag false;
        configurationLimit = limit null;
      }
      // optionalAttrs (versionAtLeast release "26.11") { bootCounting.enable = flag false; };
    };
    environment.systemPackages = optionWith [ ] (types.listOf types.package);
    fileSystems = optionWith { } (types.attrsOf (types.submodule {
      device = maybe types.nonEmptyStr;
      fsType = optionWith "auto" types.nonEmptyStr;
      options = optionWith [ "defaults" ] (types.listOf types.nonEmptyStr);
    }));
    nix.package = optionWith pkgs.nix types.package;
    nix.settings = {
      trusted-public-keys = strings;
      trusted-users = strings;
    };
    programs.ssh.package = optionWith pkgs.openssh types.package;
    security = {
      inherit sudo;
      sudo-rs = sudo // { enable = flag false; };
    };
    # freeform in NixOS, for numbers, booleans and strings
    services.logrotate.settings = optionWith { } (types.attrsOf (types.submodule (name: {
      files = optionWith name types.str;
      frequency = maybe types.str;
      rotate = maybe types.int;
      create = maybe types.str;
      su = maybe types.str;
      compress = maybe types.bool;
      delaycompress = maybe types.bool;
      missingok = maybe types.bool;
      notifempty = maybe types.bool;
    })));
    systemd = {
      services = optionWith { } (types.attrsOf (types.submodule service));
      timers = optionWith { } (types.attrsOf (types.submodule (
        unit // { timerConfig = optionWith { } (types.attrsOf unitOption); }
      )));
      mounts = optionWith [ ] (types.listOf (types.submodule {
        where = option types.str;
        type = optionWith "" types.str;
      }));
    }
    // (if versionAtLeast release "25.11" then { settings.Manager = optionWith { } (types.attrsOf unitOption); }
    else { watchdog.runtimeTime = maybe types.str; });
    users.users = optionWith { } (types.attrsOf (types.submodule {
      description = optionWith "" types.str;
      isNormalUser = flag false;
      isSystemUser = flag false;
      group = optionWith "" types.str;
      extraGroups = strings;
      home = optionWith "/var/empty" types.path;
      createHome = flag false;
      useDefaultShell = flag false;
      openssh.authorizedKeys.keys = optionWith [ ] (types.listOf types.singleLineStr);
      openssh.authorizedKeys.keyFiles = optionWith [ ] (types.listOf types.path);
    }));
    users.groups = optionWith { } (types.attrsOf (types.submodule { }));
  };

  config = {
    # as NixOS has it
    nix.settings.trusted-users = [ "root" ];
    users.users.root.home = "/root";
    made = {
      units = suffixed "service" serviceText config.systemd.services // suffixed "timer" timerText config.systemd.timers;
      logrotate = rotations;
      sudoers = rules;
      fstab = mounts;
    };
  };
}
