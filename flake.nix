{
  description = "NixOS modules of the Ansible collection homelab.nixos";

  outputs =
    { self }:
    {
      nixosModules = {
        host = ./nix/host.nix;
        controller = ./nix/controller.nix;
        # both, each of which does nothing until it is enabled
        default.imports = [
          self.nixosModules.host
          self.nixosModules.controller
        ];
      };
    };
}
