{
  description = "NixOS modules of the Ansible collection homelab.nixos";

  outputs =
    { self }:
    {
      nixosModules = {
        host = ./nix/host.nix;
        default = self.nixosModules.host;
      };
    };
}
