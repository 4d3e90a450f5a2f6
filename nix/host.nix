# What a host that is updated by homelab.nixos has of it in its own configuration.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.lab-auto-update-host;
in
{
  options.services.lab-auto-update-host = {
    enable = lib.mkEnableOption ''
      the boot guard of lab-auto-update, which goes back to the former system
      when an update needed a reboot and nobody could confirm the new system
      after it; and the unit that does so for a host that is its own
      controller
    '';
  };

  config = lib.mkIf cfg.enable {
    systemd.services.lab-auto-update-boot-guard = {
      description = "Go back to the former system unless lab-auto-update confirms this boot";
      wantedBy = [ "multi-user.target" ];

      # It starts as soon as its files are there, so that it also helps a boot that ends in emergency mode.
      after = [
        "systemd-remount-fs.service"
        "boot.mount"
      ];
      before = [ "shutdown.target" ];
      conflicts = [ "shutdown.target" ];
      unitConfig = {
        DefaultDependencies = false;
        RequiresMountsFor = [
          "/var/lib/lab-auto-update"
          "/nix"
        ];
        # A switch neither stops nor restarts it while it waits.
        X-StopOnRemoval = false;
      };
      restartIfChanged = false;

      path = [
        config.nix.package
        pkgs.jq
        pkgs.util-linux
      ];
      serviceConfig = {
        Type = "exec";
        ExecStart = "${pkgs.runtimeShell} ${./boot-guard.sh}";
        Restart = "on-abnormal";
        StateDirectory = "lab-auto-update";
        SyslogIdentifier = "lab-auto-update-boot-guard";
      };
    };

    # For a host that is its own controller; it has nothing to do on any other.
    systemd.services.lab-auto-update-resume = {
      description = "Finish the night that has rebooted its own controller";
      wantedBy = [ "multi-user.target" ];
      after = [
        "network.target"
        "nix-daemon.socket"
      ];
      unitConfig = {
        ConditionPathExists = "/var/lib/lab-auto-update/resume.json";
        RequiresMountsFor = [
          "/var/lib/lab-auto-update"
          "/nix"
        ];
        # It may return to a system that does not have it.
        X-StopOnRemoval = false;
      };
      restartIfChanged = false;

      path = [ pkgs.jq ];
      serviceConfig = {
        Type = "exec";
        ExecStart = "${pkgs.runtimeShell} ${./resume.sh}";
        # Each step has an end; this is one for all.
        RuntimeMaxSec = "6h";
        SyslogIdentifier = "lab-auto-update-resume";
      };
    };
  };
}
