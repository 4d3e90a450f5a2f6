{
  description = "A second input, which moves on its own";

  inputs.packages.url = "git+file:///srv/packages?ref=main";

  outputs = { self, packages }: {
    versions = builtins.fromJSON (builtins.readFile ./versions.json);
  };
}
