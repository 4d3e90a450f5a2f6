# Stand-in for nixpkgs' lib.nixosSystem: one attribute set per host in, one toplevel out, in the shape of the real one.
{ standIns, versions, release, revision ? null }:
let
  inherit (builtins) attrNames attrValues concatMap concatStringsSep elem filter foldl' hashString head
    listToAttrs mapAttrs match readFile replaceStrings toJSON toString;

  system = "x86_64-linux";

  # Debian's programs are put into the store when the guests' image is made; the hash alone finds them there.
  standIn = name: derivation {
    inherit system;
    name = standIns.${name}.name;
    builder = "/already-in-the-store";
    outputHashMode = "recursive";
    outputHash = standIns.${name}.hash;
  };
  busybox = standIn "busybox";
  userland = standIn "userland";
  python3 = standIn "python3";

  buildFor = system: name: attrs: script: derivation ({
    inherit name system;
    builder = "${busybox}/bin/busybox";
    args = [ "sh" "-euc" script ];
    PATH = "${busybox}/bin";
  } // attrs);
  build = buildFor system;

  # `size` KiB of filler, so that sizes show in a closure diff.
  package = pname: version: script: let fault = versions.${pname}.fault or ""; in
    if fault == "eval-fails" then throw "${pname} ${version} has the fault eval-fails"
    else build "${pname}-${version}" { inherit pname version; } ''
    ${packageFaults.${fault}}
    mkdir -p $out/bin $out/share/$pname
    yes "$pname $version" | head -c ${toString (versions.${pname}.size * 1024)} > $out/share/$pname/data
    ${script}
  '';

  packageFaults = {
    "" = "";
    build-fails = ''echo "$pname $version has the fault build-fails" >&2; exit 1'';
    build-hangs = "sleep 600";
    # bounded, for a store that is larger than thought
    fills-disk = "dd if=/dev/zero of=$out bs=1M count=256";
  };

  program = pname: package pname versions.${pname}.version ''
    printf '#!/bin/sh\necho "%s %s"\n' $pname $version > $out/bin/$pname
    chmod +x $out/bin/$pname
  '';

  # A server answers on its port with its own name and version.
  server = pname: package pname versions.${pname}.version ''
    echo "$pname $version" > $out/share/$pname/index.html
    printf '#!/bin/sh\nexec /usr/bin/busybox httpd -f -h %s -p "$1"\n' $out/share/$pname > $out/bin/$pname
    chmod +x $out/bin/$pname
  '';

  # What a host can be asked to do; `services` in hosts.json names these.
  services = {
    web = { package = "nginx"; port = 80; };
    dns = { package = "unbound"; port = 53; };
    nas = { package = "samba"; port = 445; };
    dev = { package = "gitea"; port = 3000; };
    app = { package = "hello"; port = 8080; };
  };

  # Faults are `name` or `name=parameter`.
  parseFaults = faults: listToAttrs (map
    (fault:
      let parts = match "([^=]+)(=(.*))?" fault; value = builtins.elemAt parts 2;
      in { name = head parts; value = if value == null then "" else value; })
    faults);

  nixosSystem = name: host: hosts:
    let
      faults = parseFaults (host.faults or [ ]);
      has = fault: faults ? ${fault};
      parameter = fault: default: if has fault && faults.${fault} != "" then faults.${fault} else default;

      linuxVersion = if has "kernel-changed" then parameter "kernel-changed" "${versions.linux.version}.1" else versions.linux.version;
      linux = package "linux" linuxVersion ''
        cp $out/share/linux/data $out/bzImage
        mkdir -p $out/lib/modules/$version
      '';
      initrd = build "initrd-linux-${linuxVersion}" { inherit linux; } ''
        mkdir $out
        cat $linux/bzImage $linux/bzImage > $out/initrd
      '';
      systemdVersion = if has "systemd-changed" then parameter "systemd-changed" "${versions.systemd.version}.1" else versions.systemd.version;
      systemd = package "systemd" systemdVersion ''
        mkdir -p $out/lib/systemd
        ln -s /usr/lib/systemd/systemd $out/lib/systemd/systemd
        for program in ${userland}/bin/*ctl ${userland}/bin/systemd-*; do ln -s "$(readlink $program)" $out/bin/; done
      '';

      mainService = head (host.services ++ [ "app" ]);
      hostServices = host.services;
      packages = [ (program "hello") (program "htop") (program "openssl") (program "restic") ]
        ++ map (service: server services.${service}.package) (filter (service: service != "app") hostServices);

      withPython = host.python && !has "python-gone";
      brokenPython = build "python3-broken" { } ''
        mkdir -p $out/bin
        printf '#!/bin/sh\necho "python3: error while loading shared libraries: libpython3.so" >&2\nexit 127\n' > $out/bin/python3
        chmod +x $out/bin/python3
      '';
      python = if has "python-broken" then brokenPython else python3;
      bootctl = build "bootctl" { text = readFile ./scripts/bootctl.sh; passAsFile = [ "text" ]; } ''
        mkdir -p $out/bin
        sed 's|@userland@|${userland}|g' $textPath > $out/bin/bootctl
        chmod +x $out/bin/bootctl
      '';
      sw = build "system-path" { } ''
        mkdir -p $out/bin
        for tree in ${concatStringsSep " " (map toString ([ userland bootctl ] ++ packages ++ (if withPython then [ python ] else [ ])))}; do
          for program in $tree/bin/*; do ln -sfn $program $out/bin/; done
        done
      '';

      # ---- units ------------------------------------------------------------------------------------------------
      serviceUnit = service:
        let
          inherit (services.${service}) package port;
          start = "${if package == "hello" then appServer else server package}/bin/${package} ${toString port}";
          broken = has "unit-fails" && service == mainService;
          flapping = has "unit-flaps" && service == mainService;
        in
        {
          name = "${service}.service";
          value = {
            wantedBy = "multi-user.target";
            text = ''
              [Unit]
              Description=${service}, the service of this host (${package})
              After=network.target
              ${if flapping then "StartLimitIntervalSec=0" else ""}

              [Service]
              Type=exec
              Environment=PATH=${userland}/bin
            '' + (if broken then ''
              ExecStartPre=${userland}/bin/sh -c "echo 'this system cannot run ${service}' >&2; exit 1"
            '' else "") + (if flapping then ''
              ExecStartPre=${userland}/bin/sh -c "now=$(date +%%s); [ -e /run/flapping ] || echo $now > /run/flapping; [ $((now - $(cat /run/flapping))) -ge ${parameter "unit-flaps" "5"} ]"
              Restart=on-failure
              RestartSec=1
            '' else "") + ''
              ExecStart=${start}
            '';
          };
        };
      appServer = package "hello" versions.hello.version ''
        echo "$pname $version" > $out/share/$pname/index.html
        printf '#!/bin/sh\nexec /usr/bin/busybox httpd -f -h %s -p "$1"\n' $out/share/$pname > $out/bin/$pname
        chmod +x $out/bin/$pname
      '';

      # The scripts of nix/host.nix, put beside the others by tests/lab/image.py, in the units that nix/host.nix makes.
      guard = if !(host.guard or true) || has "guard-gone" then { } else {
        "lab-auto-update-boot-guard.service" = {
          wantedBy = "multi-user.target";
          text = ''
            [Unit]
            Description=Go back to the former system unless lab-auto-update confirms this boot
            DefaultDependencies=no
            After=systemd-remount-fs.service boot.mount
            Before=shutdown.target
            Conflicts=shutdown.target
            RequiresMountsFor=/var/lib/lab-auto-update /nix
            X-RestartIfChanged=false
            X-StopOnRemoval=false

            [Service]
            Type=exec
            Environment=PATH=${userland}/bin
            ExecStart=${userland}/bin/bash ${builtins.toFile "boot-guard.sh" (readFile ./scripts/boot-guard.sh)}
            Restart=on-abnormal
            StateDirectory=lab-auto-update
            SyslogIdentifier=lab-auto-update-boot-guard
          '';
        };
        "lab-auto-update-resume.service" = {
          wantedBy = "multi-user.target";
          text = ''
            [Unit]
            Description=Finish the night that has rebooted its own controller
            ConditionPathExists=/var/lib/lab-auto-update/resume.json
            After=network.target nix-daemon.socket
            RequiresMountsFor=/var/lib/lab-auto-update /nix
            X-RestartIfChanged=false
            X-StopOnRemoval=false

            [Service]
            Type=exec
            Environment=PATH=${userland}/bin
            ExecStart=${userland}/bin/bash ${builtins.toFile "resume.sh" (readFile ./scripts/resume.sh)}
            RuntimeMaxSec=6h
            SyslogIdentifier=lab-auto-update-resume
          '';
        };
      };

      units = listToAttrs (map serviceUnit hostServices) // guard // {
        "sshd.service" = {
          wantedBy = "multi-user.target";
          text = ''
            [Unit]
            Description=SSH Daemon
            After=network.target
            X-StopIfChanged=false
            X-Restart-Triggers=${hashString "sha256" sshdConfig}

            [Service]
            Environment=PATH=${userland}/bin
            ExecStart=${if has "sshd-broken" then "${userland}/bin/false" else "/usr/sbin/sshd -D -f /etc/ssh/sshd_config"}
            RuntimeDirectory=sshd
            RuntimeDirectoryPreserve=yes
            KillMode=process
            ${if has "sshd-broken" then "Restart=no" else "Restart=always"}
          '';
        };
        "nix-daemon.socket" = {
          wantedBy = "sockets.target";
          text = ''
            [Unit]
            Description=Nix Daemon Socket
            Before=multi-user.target

            [Socket]
            ListenStream=/nix/var/nix/daemon-socket/socket
          '';
        };
        "nix-daemon.service" = {
          text = ''
            [Unit]
            Description=Nix Daemon
            X-RestartIfChanged=true

            [Service]
            Environment=PATH=${userland}/bin
            ExecStart=@${userland}/bin/nix-daemon nix-daemon --daemon
            KillMode=process
            LimitNOFILE=1048576
            TasksMax=1048576
            Delegate=yes
          '';
        };
        "backup.service" = {
          wantedBy = "multi-user.target";
          text = ''
            [Unit]
            Description=A job that fails while /var/lib/backup-broken exists

            [Service]
            Type=oneshot
            RemainAfterExit=yes
            ExecStart=${userland}/bin/test ! -e /var/lib/backup-broken
          '';
        };
        "nftables.service" = {
          wantedBy = "multi-user.target";
          text = ''
            [Unit]
            Description=Firewall
            Before=network-pre.target
            Wants=network-pre.target
            X-ReloadIfChanged=true

            [Service]
            Type=oneshot
            RemainAfterExit=yes
            ExecStart=/usr/sbin/nft -f ${firewall}
            ExecReload=/usr/sbin/nft -f ${firewall}
          '';
        };
        "sysinit-reactivation.target" = {
          text = ''
            [Unit]
            Description=Reactivate sysinit units
          '';
        };
      };

      ports = [ 22 ] ++ map (service: services.${service}.port) hostServices;
      openPorts = if has "firewall-drops-ssh" then filter (port: port != 22) ports else ports;
      firewall = builtins.toFile "nftables-rules" ''
        add table inet nixos-fw
        delete table inet nixos-fw
        table inet nixos-fw {
          chain input {
            type filter hook input priority filter; policy drop;
            iif lo accept
            ct state established,related accept
            icmp type echo-request accept
            ${concatStringsSep "\n    " (map (port: "tcp dport ${toString port} accept") openPorts)}
          }
        }
      '';

      sshdConfig = ''
        HostKey /etc/ssh/ssh_host_ed25519_key
        PermitRootLogin prohibit-password
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        UsePAM yes
        UseDNS no
        PrintMotd no
        MaxStartups 100
        # the default key exchange costs a tenth of a second on each side
        KexAlgorithms curve25519-sha256
        Subsystem sftp /usr/lib/openssh/sftp-server
        # Debian's sshd would hand out Debian's PATH
        SetEnv PATH=/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin
      '';

      # ---- /etc -------------------------------------------------------------------------------------------------
      address = if has "network-lost" then "198.19.255.1/32" else "${host.address}/24";
      etcFiles = {
        "systemd/network/10-lab.network" = ''
          [Match]
          Name=host0

          [Network]
          Address=${address}
          LinkLocalAddressing=no
          IPv6AcceptRA=no
        '';
        # As on NixOS, a transient unit finds programs of systemd by bare name and nothing else.
        "systemd/system.conf" = ''
          [Manager]
          DefaultEnvironment=PATH=${systemd}/bin
        '';
        "ssh/sshd_config" = sshdConfig;
        "nix/nix.conf" = ''
          build-users-group = nixbld
          experimental-features = nix-command flakes
          flake-registry =
          sandbox = true
          substituters =
          trusted-users = root
          !include /etc/nix/local.conf
        '';
        # Debian's would let nobody but root reach the daemon
        "tmpfiles.d/nix-daemon.conf" = ''
          d /nix/var/nix/daemon-socket 0755 root root
          e! /nix/var/nix/daemon-socket - - - 0
          d /nix/var/nix/gcroots/per-user 1777
          d /nix/var/nix/profiles/per-user 1777
        '';
        "hostname" = "${name}\n";
        "hosts" = "127.0.0.1 localhost\n" + concatStringsSep "" (map (other: "${hosts.${other}.address} ${other}\n") (attrNames hosts));
        "profile" = ''
          export PATH=/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin
        '';
        "os-release" = ''
          ID=nixos
          NAME=NixOS
          PRETTY_NAME="NixOS 26.11 (stand-in)"
          VERSION="26.11 (stand-in)"
          VERSION_ID="26.11"
          BUILD_ID="${release}"
        '';
      };
      etcNames = attrNames etcFiles;
      unitNames = attrNames units;
      indexed = prefix: values: listToAttrs (builtins.genList (i: { name = "${prefix}${toString i}"; value = builtins.elemAt values i; }) (builtins.length values));
      contents = indexed "etc" (attrValues etcFiles) // indexed "unit" (map (unit: unit.text) (attrValues units));
      etc = build "etc" (contents // { passAsFile = attrNames contents; }) ''
        put() { mkdir -p "$(dirname "$out/$2")"; cp "$1" "$out/$2"; }
        ${concatStringsSep "\n" (builtins.genList (i: ''put "$etc${toString i}Path" '${builtins.elemAt etcNames i}' '') (builtins.length etcNames))}
        ${concatStringsSep "\n" (builtins.genList (i: ''put "$unit${toString i}Path" 'systemd/system/${builtins.elemAt unitNames i}' '') (builtins.length unitNames))}
        cd $out/systemd/system
        # networkd is Debian's unit made part of the system, restarted when its configuration changes
        sed 's|^\[Unit\]|[Unit]\nX-StopIfChanged=false\nX-Restart-Triggers=${hashString "sha256" etcFiles."systemd/network/10-lab.network"}|' \
          ${userland}/units/systemd-networkd.service > systemd-networkd.service
        want() { mkdir -p $1.wants; ln -s ../$2 $1.wants/$2; }
        want multi-user.target systemd-networkd.service
        ${concatStringsSep "\n" (map (unit: "want ${units.${unit}.wantedBy} ${unit}") (filter (unit: units.${unit} ? wantedBy) unitNames))}
        ln -s /usr/lib/systemd/system/multi-user.target default.target
      '';

      # ---- toplevel ---------------------------------------------------------------------------------------------
      script = file: readFile (./scripts + "/${file}");
      installBootLoader = build "install-systemd-boot.sh"
        { text = script "install-boot-loader.sh"; passAsFile = [ "text" ]; } ''
        sed 's|@userland@|${userland}|g' $textPath > $out
        chmod +x $out
      '';
      flag = fault: if has fault then "1" else "";
      toplevel =
        if has "eval-fails" then throw "the configuration of ${name} has the fault eval-fails"
        # a list of 2^27 elements, which takes a GiB and another one while it grows
        else if has "eval-hungry" && builtins.length (foldl' (list: _: list ++ list) [ 1 ] (builtins.genList (i: i) 27)) == 0 then null
        else builtins.trace "evaluating ${name}" buildFor (if has "foreign-platform" then "aarch64-linux" else system) "nixos-system-${name}-${release}"
          {
            inherit etc sw systemd initrd linux release;
            activate = script "activate.sh";
            init = script "init.sh";
            stc = script "switch-to-configuration.sh";
            inhibitors = toJSON { dbus-implementation = if has "inhibitor" then "broker" else "dbus"; };
            passAsFile = [ "activate" "init" "stc" ];
          } ''
          ${if has "build-fails" then "echo 'this system has the fault build-fails' >&2; exit 1" else ""}
          mkdir -p $out/bin $out/specialisation
          for file in activate init stc; do
            eval "source=\$''${file}Path"
            sed -e "s|@out@|$out|g" \
              -e 's|@userland@|${userland}|g' \
              -e 's|@installBootLoader@|${installBootLoader}|g' \
              -e 's|@sudoGone@|${flag "sudo-gone"}|g' \
              -e 's|@activateFails@|${flag "activate-fails"}|g' \
              -e 's|@activationHangs@|${flag "activation-hangs"}|g' \
              -e 's|@activationSeconds@|${if has "slow-activation" then parameter "slow-activation" "15" else ""}|g' \
              -e 's|@loaderSeconds@|${if has "slow-loader" then parameter "slow-loader" "5" else ""}|g' \
              -e 's|@bootFails@|${flag "boot-fails"}|g' \
              -e 's|@emergencyMode@|${flag "emergency-mode"}|g' \
              -e 's|@networkLostAfterBoot@|${flag "network-lost-after-boot"}|g' \
              -e 's|@espFull@|${flag "esp-full"}|g' \
              -e 's|@loaderFails@|${flag "loader-fails"}|g' \
              $source > $out/$file
            chmod +x $out/$file
          done
          mv $out/stc $out/bin/switch-to-configuration
          ln -s $etc $out/etc
          ln -s $sw $out/sw
          ln -s $systemd $out/systemd
          ln -s $linux/bzImage $out/kernel
          ln -s $initrd/initrd $out/initrd
          ln -s $linux $out/kernel-modules
          printf '%s' 'loglevel=4${if has "kernel-params-changed" then " lab.changed=1" else ""}' > $out/kernel-params
          printf '%s' '${if has "init-interface-changed" then "systemd 3" else "systemd 2"}' > $out/init-interface-version
          printf '%s' $release > $out/nixos-version
          ${if revision == null then "" else "printf '%s' ${revision} > $out/configuration-revision"}
          printf '%s' ${system} > $out/system
          printf '%s' "$inhibitors" > $out/switch-inhibitors
        '';
    in
    {
      config = {
        system.build = { inherit toplevel; };
        system.nixos.version = release;
        networking.hostName = name;
      };
    };
in
{ inherit nixosSystem; }
