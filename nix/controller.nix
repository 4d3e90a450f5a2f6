# The nights of homelab.nixos on a controller that runs NixOS: a service, its timer, and the rotation of its logs.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  cfg = config.services.lab-auto-update;
  option = "services.lab-auto-update";

  # Of the repository, what a night runs: nothing else may change the unit.
  source = builtins.path {
    name = "homelab.nixos";
    path = ../.;
    filter =
      path: _type:
      let
        below = lib.removePrefix "${toString ../.}/" path;
        top = builtins.head (lib.splitString "/" below);
      in
      builtins.elem top [
        "LICENSE"
        "ansible.cfg"
        "collections"
        "galaxy.yml"
        "meta"
        "playbooks"
        "plugins"
        "roles"
      ]
      && baseNameOf path != "__pycache__";
  };

  asRoot = cfg.user == "root";
  ownUser = "lab-auto-update";

  # lab_run ends what it can in this time; then systemd ends the rest.
  margin = 300;
  settings = {
    lab_deadline = cfg.startTimeout - margin;
  }
  // lib.optionalAttrs (cfg.flakePath != null) { lab_flake = cfg.flakePath; }
  // lib.optionalAttrs (!cfg.autoReboot) { lab_reboot = "never"; };

  # As utils.escapeSystemdExecArg of NixOS, which is there in a NixOS system only.
  escape = argument: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON "${argument}");
  command = [
    "${cfg.package}/bin/ansible-playbook"
    "homelab.nixos.nightly"
  ]
  ++ lib.concatMap (inventory: [
    "--inventory"
    inventory
  ]) cfg.inventory
  ++ [
    "--extra-vars"
    (builtins.toJSON settings)
  ]
  ++ lib.optionals (cfg.limits != [ ]) [
    "--limit"
    (lib.concatStringsSep "," cfg.limits)
  ]
  ++ cfg.extraArguments;

  rotation = import ./log-rotation.nix cfg.logRetentionDays;
in
{
  options.services.lab-auto-update = {
    enable = lib.mkEnableOption "the nightly update of this lab's NixOS hosts, with this machine as its controller";

    inventory = lib.mkOption {
      type = lib.types.listOf lib.types.path;
      default = [ ];
      example = [ "/etc/nixos/lab" ];
      description = ''
        Inventories of Ansible that list the hosts: files or directories. A
        path without quotes is copied to the Nix store, which everybody can
        read, and is what it was when this system was built; a path in quotes
        is read anew each night.
      '';
    };

    limits = lib.mkOption {
      type = lib.types.listOf lib.types.nonEmptyStr;
      default = [ ];
      example = [
        "infrastructure"
        "!nas"
      ];
      description = "Hosts, groups and patterns to which each night is limited; all hosts of the inventory when empty.";
    };

    extraArguments = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [
        "--vault-password-file=/run/secrets/vault"
        "--extra-vars"
        "lab_flake_pull=true"
      ];
      description = ''
        Further arguments of {command}`ansible-playbook`. They win over what
        the other options give, and everybody on this machine can read them.
      '';
    };

    schedule = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "02:00";
      example = "Mon..Fri 03:30";
      description = "When the night begins, as {manpage}`systemd.time(7)` has it.";
    };

    randomizedDelay = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "30min";
      example = "0";
      description = "The longest time, chosen anew each night, by which the beginning is delayed.";
    };

    accuracy = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "1min";
      description = "How exactly the timer keeps to its time.";
    };

    persistent = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Whether a night that was missed, because this machine was off, is made up for when it is on again.";
    };

    flakePath = lib.mkOption {
      type = lib.types.nullOr lib.types.nonEmptyStr;
      default = null;
      example = "/etc/nixos";
      description = ''
        Directory of the flake on the host that has it, `lab_flake`. It wins
        over the inventory. When null, the inventory says where it is, and
        {file}`/etc/nixos` is meant where that says nothing.
      '';
    };

    autoReboot = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = ''
        Whether hosts that need a reboot after their update are rebooted. When
        true, `lab_reboot` of the inventory decides for each host, and means
        when needed where that says nothing; false is `lab_reboot: never` for
        all of them.
      '';
    };

    logRetentionDays = lib.mkOption {
      type = lib.types.ints.positive;
      default = 30;
      description = "How many days of logs are kept.";
    };

    startTimeout = lib.mkOption {
      type = lib.types.ints.positive;
      default = 4 * 60 * 60;
      description = ''
        How many seconds a night may take. It is told to be over
        ${toString margin} seconds before that (`lab_deadline`), and changes no
        host that might take longer; with default time limits one host may
        take more than an hour and a half, so that with much less than two
        hours no night would begin.
      '';
    };

    stopTimeout = lib.mkOption {
      type = lib.types.ints.positive;
      default = 5 * 60;
      description = "How many seconds a night has to end by itself when it is stopped.";
    };

    memoryMax = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "2G";
      description = ''
        The most memory that a night may use, {option}`MemoryMax` of
        {manpage}`systemd.resource-control(5)`. Where this machine has the
        flake, what is evaluated and built counts as well: one evaluation may
        use `lab_eval_memory`, 4096 MiB by default.
      '';
    };

    cpuQuota = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "50%";
      description = ''
        How much of one processor a night may use, {option}`CPUQuota` of
        {manpage}`systemd.resource-control(5)`.
      '';
    };

    user = lib.mkOption {
      type = lib.types.nonEmptyStr;
      default = "root";
      example = ownUser;
      description = ''
        The user who runs the nights. Whoever that is becomes root on every
        host, by ssh; root on this machine, too, is needed where it has the
        flake and root builds (`lab_flake_become`), and where it is one of the
        hosts. Where neither is the case, `${ownUser}` is a user that this
        module makes, with {file}`/var/lib/${ownUser}-controller` for its
        ssh key and the notes of a run; any other has to exist.
      '';
    };

    onFailure = lib.mkOption {
      type = lib.types.listOf lib.types.nonEmptyStr;
      default = [ ];
      example = [ "mail-owner.service" ];
      description = ''
        Units that are started when a night fails: a host ended badly, nothing
        was built, or nobody was reached.
      '';
    };

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.python3.withPackages (python: [
        python.ansible-core
        python.apprise
        python.jmespath
      ]);
      defaultText = lib.literalExpression "pkgs.python3.withPackages (python: [ python.ansible-core python.apprise python.jmespath ])";
      description = "A Python with ansible-core 2.19 or newer, with jmespath where checks of your own need it, and apprise for `lab_notify`.";
    };

    collection = lib.mkOption {
      type = lib.types.path;
      default = source;
      defaultText = lib.literalMD "the repository that this module is part of";
      description = ''
        A clone of the collection, with its {file}`ansible.cfg` and
        {file}`collections`.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.inventory != [ ];
        message = ''
          ${option}.inventory is empty, so there is no host to update. Name the inventory of your lab, as
          ${option}.inventory = [ "/etc/nixos/lab" ].
        '';
      }
      {
        assertion = cfg.startTimeout >= 600;
        message = ''
          ${option}.startTimeout is ${toString cfg.startTimeout} seconds, in which no host can be updated. Give a night ten
          minutes at the very least, better the default of four hours.
        '';
      }
      {
        assertion = asRoot || config.users.users ? ${cfg.user};
        message = ''
          ${option}.user is ${cfg.user}, who does not exist. Add users.users.${cfg.user}, or choose "${ownUser}", whom this
          module makes.
        '';
      }
      {
        # only what nixpkgs gives by default is known
        assertion =
          options.services.lab-auto-update.package.highestPrio < (lib.mkOptionDefault null).priority
          || lib.versionAtLeast pkgs.python3.pkgs.ansible-core.version "2.19";
        message = ''
          ${option}.package has ansible-core ${pkgs.python3.pkgs.ansible-core.version}, and 2.19 is needed. Take it from a newer
          nixpkgs.
        '';
      }
    ];

    # What Ansible runs on this machine itself, as on any other; a Python of your own comes first.
    environment.systemPackages = [
      (lib.lowPrio pkgs.git)
      (lib.lowPrio pkgs.python3)
    ];

    users = lib.mkIf (cfg.user == ownUser) {
      users.${ownUser} = {
        description = "Runs the nightly updates of the lab";
        isSystemUser = true;
        group = ownUser;
        home = "/var/lib/${ownUser}-controller";
        createHome = true;
      };
      groups.${ownUser} = { };
    };

    systemd.timers.lab-auto-update = {
      description = "When the lab's NixOS hosts are updated";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = cfg.schedule;
        RandomizedDelaySec = cfg.randomizedDelay;
        AccuracySec = cfg.accuracy;
        Persistent = cfg.persistent;
      };
    };

    systemd.services.lab-auto-update = {
      description = "Update the lab's NixOS hosts";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      inherit (cfg) onFailure;

      # This machine may be one of the hosts: its own switch must not end the night.
      restartIfChanged = false;
      unitConfig.X-StopOnRemoval = false;

      path = [
        "/run/wrappers"
        config.nix.package
        config.programs.ssh.package
        pkgs.git
      ];
      environment = {
        ANSIBLE_CONFIG = "${cfg.collection}/ansible.cfg";
        ANSIBLE_LOG_PATH = "/var/log/lab-auto-update/ansible.log";
        LC_ALL = "C.UTF-8";
        # ssh gives a ProxyCommand to it, and that of a system user lets nobody in
        SHELL = "/bin/sh";
      };

      serviceConfig = {
        Type = "oneshot";
        User = cfg.user;
        ExecStart = lib.concatMapStringsSep " " escape command;
        TimeoutStartSec = cfg.startTimeout;
        TimeoutStopSec = cfg.stopTimeout;
        SyslogIdentifier = "lab-auto-update";
        LogsDirectory = "lab-auto-update";
        UMask = "0022";

        MemoryMax = cfg.memoryMax;
        # a build that is too large fails, and the night can tell
        OOMPolicy = "continue";
        CPUQuota = cfg.cpuQuota;

        PrivateTmp = true;
      }
      # As root, a night builds and activates, so its builds would be under all of this. No new privileges and a filter of
      # system calls together, systemd even takes CAP_SETUID from root, and Nix cannot become its build users any more.
      // lib.optionalAttrs (!asRoot) {
        CapabilityBoundingSet = "";
        NoNewPrivileges = true;
        LockPersonality = true;
        PrivateDevices = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6 AF_NETLINK";
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
      };
    };

    services.logrotate.settings = {
      "/var/log/lab-auto-update.log" = rotation;
      "/var/log/lab-auto-update/*.log" =
        rotation
        # the directory is that user's
        // lib.optionalAttrs (!asRoot) { su = "${cfg.user} ${config.users.users.${cfg.user}.group}"; };
    };
  };
}
