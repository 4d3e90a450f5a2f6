{
  description = "A small lab: every host of hosts.json is a nixosConfiguration";

  inputs.packages.url = "git+file:///srv/packages?ref=main";
  inputs.tools = {
    url = "git+file:///srv/tools?ref=main";
    inputs.packages.follows = "packages";
  };

  outputs = { self, packages, tools }:
    let
      lib = import ./lib.nix {
        standIns = builtins.fromJSON (builtins.readFile ./stand-ins.json);
        versions = packages.versions // tools.versions;
        # as system.configurationRevision, which is mostly self.rev; then every commit makes new systems
        revision = null;
        release = "26.11.${builtins.substring 0 8 packages.lastModifiedDate}.${packages.shortRev}";
      };
      hosts = builtins.fromJSON (builtins.readFile ./hosts.json);
    in
    {
      nixosConfigurations = builtins.mapAttrs (name: host: lib.nixosSystem name host hosts) hosts;

      # What the inventory plugin homelab.nixos.nix_flake reads, beside the names above.
      lab = {
        stages = [ "development" "infrastructure" "critical" ];
        vars = {
          ansible_user = "root";
          lab_flake_host = "builder";
          lab_flake = "/etc/nixos";
          lab_push_key = "/root/.ssh/id_ed25519";
          lab_min_uptime = 0;
          lab_reboot_delay = 0;
          lab_max_bad = 1000;
          lab_defer_for_users = false;
        };
        hosts = builtins.mapAttrs
          (name: host:
            { inherit (host) address; }
            // (if name == "builder" then { managed = false; } else { inherit (host) stage tags depends_on; }))
          hosts;
      };
    };
}
