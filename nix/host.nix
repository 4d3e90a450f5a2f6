# What a host that is updated by homelab.nixos has of it in its own configuration.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  cfg = config.services.lab-auto-update-host;
  option = "services.lab-auto-update-host";

  # Fixed: the boot guard, the modules and every controller look there.
  directory = "/var/lib/lab-auto-update";
  elsewhere = cfg.stateDirectory != directory;
  mounts =
    config.fileSystems
    // lib.listToAttrs (map (mount: lib.nameValuePair mount.where { fsType = mount.type; }) config.systemd.mounts);
  # the file system that it is on
  keeper = lib.findFirst (path: mounts ? ${path}) "/" [
    directory
    "/var/lib"
    "/var"
  ];
  inMemory = builtins.elem (mounts.${keeper}.fsType or "") [
    "ramfs"
    "tmpfs"
  ];

  mayLogIn = cfg.authorizedKeys != [ ] || cfg.authorizedKeyFiles != [ ];
  asRoot = cfg.user == "root";
  needsWheel = config.security.sudo.execWheelOnly || config.security.sudo-rs.execWheelOnly;
  # Ansible runs its modules as `sudo /bin/sh -c ...`, so no rule for fewer commands is any narrower.
  rule = [
    {
      users = [ cfg.user ];
      runAs = "root";
      commands = [
        {
          command = "ALL";
          options = [ "NOPASSWD" ];
        }
      ];
    }
  ];
in
{
  options.services.lab-auto-update-host = {
    enable = lib.mkEnableOption ''
      what a host needs that lab-auto-update updates: Python, the boot guard,
      which goes back to the former system when an update needed a reboot and
      nobody could confirm the new system after it, and the unit that ends the
      night of a host that is its own controller; and, unless they are turned
      off, ways back from a boot that goes wrong
    '';

    python = lib.mkPackageOption pkgs "python3" {
      extraDescription = "Ansible runs it on this host, as {file}`/run/current-system/sw/bin/python3`; 3.11 or newer.";
    };

    user = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "lab-deploy";
      example = "root";
      description = ''
        The user as whom the controller logs in, `ansible_user`. Unless that is
        root, who is there already, this module makes it, and lets it use
        {command}`sudo` without a password to become root. For Ansible no
        narrower rule would do, so that **whoever has one of its keys is root
        on this host**: it is a name in the logs, and no boundary.
      '';
    };

    authorizedKeys = lib.mkOption {
      type = lib.types.listOf lib.types.singleLineStr;
      default = [ ];
      example = [ "from=\"192.168.1.10\",restrict ssh-ed25519 AAAA... controller" ];
      description = ''
        Public keys of the controller, and of the host that has the flake where
        that is another (`lab_push_key`). Without any, and without
        {option}`${option}.authorizedKeyFiles`, there is neither a user nor a
        rule for {command}`sudo`, and how the controller logs in is left to you.
      '';
    };

    authorizedKeyFiles = lib.mkOption {
      type = lib.types.listOf lib.types.path;
      default = [ ];
      description = "Files with such keys.";
    };

    trustedPublicKeys = lib.mkOption {
      type = lib.types.listOf lib.types.nonEmptyStr;
      default = [ ];
      example = [ "lab-1:JgxJcRAEEBUj+NBlqRFfjaBxqdt9ijn4s1k8U0dgTbY=" ];
      description = ''
        Public halves of the keys with which systems are signed
        (`lab_signing_key`). Unless the controller logs in as root, or
        {option}`${option}.trustUser` is set, this host takes only what one of
        them has signed.
      '';
    };

    trustUser = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether Nix takes whatever {option}`${option}.user` brings, signed or
        not. Who may bring any store path is as good as root; so is this user
        by {command}`sudo`.
      '';
    };

    stateDirectory = lib.mkOption {
      type = lib.types.path;
      default = directory;
      example = "/persist${directory}";
      description = ''
        Where this host's notes really are: who is changing it, what it goes
        back to, which systems failed here. They have to survive a reboot, for
        the boot guard reads them. If the root file system does not, name a
        directory that does; it is mounted at {file}`${directory}`.
      '';
    };

    logRetentionDays = lib.mkOption {
      type = lib.types.ints.positive;
      default = 30;
      description = ''
        How many days of logs are kept. On a controller,
        {option}`services.lab-auto-update.logRetentionDays` counts.
      '';
    };

    configurationLimit = lib.mkOption {
      type = lib.types.nullOr lib.types.ints.positive;
      default = 10;
      description = ''
        How many generations the boot loader's menu has, so that
        {file}`/boot` does not fill up; null leaves that alone. It is a default
        for systemd-boot, GRUB and extlinux, and yields to their own options.
      '';
    };

    bootCounting = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = ''
        Whether systemd-boot counts how often a new entry was tried, and
        prefers an older one to one that never came up. NixOS can do that from
        26.11; in an older release this does nothing.
      '';
    };

    watchdog = lib.mkOption {
      type = lib.types.nullOr lib.types.nonEmptyStr;
      default = "30s";
      description = ''
        After which time without a sign of life the hardware's watchdog resets
        this host; null leaves that alone. Without such hardware it does
        nothing. Some cannot count that far: a Raspberry Pi wants `15s` at most.
      '';
    };

    panicTimeout = lib.mkOption {
      type = lib.types.nullOr lib.types.ints.positive;
      default = 60;
      description = ''
        How many seconds after a panic the kernel reboots, so that an update
        that ends in one is followed by the former system; null leaves it
        standing there.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.versionAtLeast cfg.python.pythonVersion "3.11";
        message = ''
          ${option}.python is Python ${cfg.python.pythonVersion}, and 3.11 is needed. Choose pkgs.python3 of a newer nixpkgs.
        '';
      }
      {
        assertion = mayLogIn && !asRoot -> config.security.sudo.enable || config.security.sudo-rs.enable;
        message = ''
          ${option}.user is ${cfg.user}, who has to become root by sudo, and there is none. Set security.sudo.enable, or
          ${option}.user = "root".
        '';
      }
      {
        assertion = cfg.trustUser -> mayLogIn;
        message = "${option}.trustUser is set, but nobody may log in as ${cfg.user}. Add ${option}.authorizedKeys.";
      }
      {
        assertion = elsewhere || !inMemory;
        message = ''
          ${directory} is on ${keeper}, which is in memory: after a reboot nobody would know what this host
          goes back to. Name a directory that stays, as ${option}.stateDirectory = "/persist${directory}".
        '';
      }
    ];

    environment.systemPackages = [ (lib.lowPrio cfg.python) ]; # a Python of your own comes first

    users = lib.mkIf mayLogIn {
      users.${cfg.user} = lib.mkMerge [
        {
          openssh.authorizedKeys.keys = cfg.authorizedKeys;
          openssh.authorizedKeys.keyFiles = cfg.authorizedKeyFiles;
        }
        (lib.mkIf (!asRoot) {
          description = "Updates of this host by its controller";
          isSystemUser = true;
          group = cfg.user;
          extraGroups = lib.optional needsWheel "wheel";
          home = "/var/lib/${cfg.user}";
          createHome = true;
          useDefaultShell = true;
        })
      ];
      groups = lib.mkIf (!asRoot) { ${cfg.user} = { }; };
    };
    security.sudo.extraRules = lib.mkIf (mayLogIn && !asRoot) rule;
    security.sudo-rs.extraRules = lib.mkIf (mayLogIn && !asRoot) rule;
    nix.settings = {
      trusted-public-keys = lib.mkIf (cfg.trustedPublicKeys != [ ]) cfg.trustedPublicKeys;
      trusted-users = lib.mkIf cfg.trustUser [
        "root"
        cfg.user
      ];
    };

    fileSystems = lib.mkIf elsewhere {
      ${directory} = {
        device = cfg.stateDirectory;
        fsType = "none";
        options = [ "bind" ];
      };
    };
    services.logrotate.settings."/var/log/lab-auto-update.log" = lib.mapAttrs (_name: lib.mkDefault) (
      import ./log-rotation.nix cfg.logRetentionDays
    );

    boot.kernelParams = lib.mkIf (cfg.panicTimeout != null) [ "panic=${toString cfg.panicTimeout}" ];
    boot.loader = {
      systemd-boot = {
        configurationLimit = lib.mkIf (cfg.configurationLimit != null) (lib.mkDefault cfg.configurationLimit);
      }
      // lib.optionalAttrs (options.boot.loader.systemd-boot ? bootCounting) {
        bootCounting.enable = lib.mkIf (cfg.bootCounting && config.boot.loader.systemd-boot.enable) (lib.mkDefault true);
      };
      grub.configurationLimit = lib.mkIf (cfg.configurationLimit != null) (lib.mkDefault cfg.configurationLimit);
      generic-extlinux-compatible.configurationLimit = lib.mkIf (cfg.configurationLimit != null) (
        lib.mkDefault cfg.configurationLimit
      );
    };
    # named anew in 25.11
    systemd.${if options.systemd ? settings then "settings" else "watchdog"} = lib.mkIf (cfg.watchdog != null) (
      if options.systemd ? settings then
        { Manager.RuntimeWatchdogSec = lib.mkDefault cfg.watchdog; }
      else
        { runtimeTime = lib.mkDefault cfg.watchdog; }
    );

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
