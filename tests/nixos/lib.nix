# Stand-in for the part of nixpkgs' lib that nix/*.nix need: options, types, and modules with priorities and conditions.
let
  inherit (builtins)
    all any attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' head
    isAttrs isBool isFunction isInt isList isPath isString length listToAttrs mapAttrs match replaceStrings split
    stringLength substring tail toJSON;

  unique = foldl' (seen: each: if elem each seen then seen else seen ++ [ each ]) [ ];
  typed = kind: value: isAttrs value && value._type or "" == kind;
  show = concatStringsSep ".";
  mergeEqual = loc: values:
    if all (value: value == head values) values then head values
    else throw "The option `${show loc}' has conflicting definition values: ${toJSON values}";

  # ---- values with conditions and priorities --------------------------------------------------------------------------
  # The attribute sets in a definition, with what is around them moved to their values: their names depend on no condition.
  pushDown = value:
    if typed "merge" value then concatMap pushDown value.contents
    else if typed "if" value then map (mapAttrs (_: lib.mkIf value.condition)) (pushDown value.content)
    else if typed "override" value then map (mapAttrs (_: lib.mkOverride value.priority)) (pushDown value.content)
    else [ value ];
  # What a definition comes to: values, each with its priority.
  discharge = value:
    if typed "merge" value then concatMap discharge value.contents
    else if typed "if" value then (if value.condition then discharge value.content else [ ])
    else if typed "override" value then map (each: each // { inherit (value) priority; }) (discharge value.content)
    else [ { priority = 100; inherit value; } ];

  mergeDefinitions = loc: type: definitions:
    let
      found = concatMap discharge definitions;
      highestPrio = foldl' (least: each: if each.priority < least then each.priority else least) 9999 found;
      values = map (each: each.value) (filter (each: each.priority == highestPrio) found);
      wrong = filter (value: !type.check value) values;
    in
    {
      inherit highestPrio;
      isDefined = found != [ ];
      value =
        if found == [ ] then throw "The option `${show loc}' was accessed but has no value defined."
        else if wrong != [ ] then
          throw "A definition for option `${show loc}' is not of type `${type.description}': ${
            if isFunction (head wrong) then "a function"
            else if isPath (head wrong) then toString (head wrong)
            else toJSON (head wrong)
          }"
        else type.merge loc values;
    };

  # ---- modules --------------------------------------------------------------------------------------------------------
  load = args: module:
    let
      loaded = if isPath module || isString module then import module else module;
      body = if isFunction loaded then loaded args else loaded;
      long = body ? config || body ? options;
    in
    [ {
      key = if isPath module || isString module then toString module else null;
      options = body.options or { };
      config = if long then body.config or { } else removeAttrs body [ "imports" ];
    } ] ++ concatMap (load args) (body.imports or [ ]);

  # A module that is imported twice counts once.
  once = foldl'
    (seen: each: if each.key != null && any (other: other.key == each.key) seen then seen else seen ++ [ each ]) [ ];

  # Options and their values, as two trees of the same shape.
  assemble = loc: declarations: definitions:
    let
      names = unique (concatMap attrNames declarations);
      of = name: concatMap (each: if each ? ${name} then [ each.${name} ] else [ ]);
      entry = name:
        let
          here = of name declarations;
          option = head here;
          given = of name definitions;
          default = if option ? default then [ (lib.mkOptionDefault option.default) ] else [ ];
          merged = mergeDefinitions (loc ++ [ name ]) (option.type or lib.types.unspecified) (given ++ default);
        in
        if any (typed "option") here then
          if length here > 1 then throw "The option `${show (loc ++ [ name ])}' is already declared."
          else { options = option // { inherit (merged) isDefined highestPrio; }; config = merged.value; }
        else assemble (loc ++ [ name ]) here (concatMap pushDown given);
      entries = listToAttrs (map (name: { inherit name; value = entry name; }) names);
      unknown = filter (name: !elem name names) (concatMap attrNames definitions);
      checked =
        if unknown == [ ] then entries else throw "The option `${show (loc ++ [ (head unknown) ])}' does not exist.";
    in
    { options = mapAttrs (_: each: each.options) entries; config = mapAttrs (_: each: each.config) checked; };

  lib = {
    inherit (builtins) all any attrNames attrValues concatMap concatStringsSep elem filter head isString length listToAttrs mapAttrs replaceStrings;

    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkMerge = contents: { _type = "merge"; inherit contents; };
    mkOverride = priority: content: { _type = "override"; inherit priority content; };
    mkOptionDefault = lib.mkOverride 1500;
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;

    mkOption = attributes: attributes // { _type = "option"; };
    mkEnableOption = name: lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${name}.";
    };
    mkPackageOption = pkgs: name: { extraDescription ? "" }: lib.mkOption {
      type = lib.types.package;
      default = pkgs.${name};
      defaultText = lib.literalExpression "pkgs.${name}";
      description = "The ${name} package to use. ${extraDescription}";
    };
    literalExpression = text: { _type = "literalExpression"; inherit text; };
    literalMD = text: { _type = "literalMD"; inherit text; };

    evalModules = { modules, specialArgs ? { } }:
      let
        args = specialArgs // { inherit lib; inherit (result) config options; };
        loaded = once (concatMap (load args) modules);
        result = assemble [ ] (map (each: each.options) loaded) (concatMap (each: pushDown each.config) loaded);
      in
      result;

    types = {
      unspecified = { description = "unspecified value"; check = _: true; merge = mergeEqual; };
      bool = { description = "boolean"; check = isBool; merge = mergeEqual; };
      int = { description = "signed integer"; check = isInt; merge = mergeEqual; };
      ints.positive = lib.types.int // { description = "positive integer, meaning >0"; check = value: isInt value && value > 0; };
      str = { description = "string"; check = isString; merge = mergeEqual; };
      nonEmptyStr = lib.types.str // {
        description = "non-empty string"; check = value: isString value && match "[ \t\n]*" value == null; };
      singleLineStr = lib.types.str // {
        description = "(optionally newline-terminated) single-line string";
        check = value: isString value && match "[^\n\r]*\n?" value != null;
      };
      path = {
        description = "absolute path";
        check = value: isPath value || (isString value || value ? outPath) && substring 0 1 "${value}" == "/";
        merge = mergeEqual;
      };
      package = { description = "package"; check = value: value.type or "" == "derivation"; merge = _: head; };
      raw = { description = "raw value"; check = _: true; merge = _: head; };
      nullOr = type: {
        description = "null or ${type.description}";
        check = value: value == null || type.check value;
        merge = loc: values: if all (value: value == null) values then null else type.merge loc values;
      };
      either = one: other: {
        description = "${one.description} or ${other.description}";
        check = value: one.check value || other.check value;
        merge = loc: values:
          if all one.check values then one.merge loc values
          else if all other.check values then other.merge loc values
          else mergeEqual loc values;
      };
      oneOf = types: foldl' lib.types.either (head types) (tail types);
      listOf = type: {
        description = "list of ${type.description}";
        check = isList;
        merge = loc: values: map (value: (mergeDefinitions loc type [ value ]).value) (concatLists values);
      };
      attrsOf = type: {
        description = "attribute set of ${type.description}";
        check = isAttrs;
        merge = loc: values:
          let
            sets = concatMap pushDown values;
            given = name: concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets;
            merged = listToAttrs (map
              (name: { inherit name; value = mergeDefinitions (loc ++ [ name ]) type (given name); })
              (unique (concatMap attrNames sets)));
          in
          mapAttrs (_: each: each.value) (lib.filterAttrs (_: each: each.isDefined) merged);
      };
      # The options alone, without modules of its own.
      submodule = options: {
        description = "submodule";
        check = isAttrs;
        merge = loc: values:
          let name = elemAt loc (length loc - 1);
          in (assemble loc [ (if isFunction options then options name else options) ] (concatMap pushDown values)).config;
      };
    };

    lowPrio = package: package // { meta = (package.meta or { }) // { priority = 10; }; };
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: attributes: if condition then attributes else { };
    optionalString = condition: text: if condition then text else "";
    nameValuePair = name: value: { inherit name value; };
    filterAttrs = wanted: attributes:
      removeAttrs attributes (filter (name: !wanted name attributes.${name}) (attrNames attributes));
    findFirst = wanted: otherwise: values:
      let found = filter wanted values; in if found == [ ] then otherwise else head found;
    concatMapStringsSep = separator: change: values: concatStringsSep separator (map change values);
    splitString = separator: text: filter isString (split separator text);
    removePrefix = prefix: text:
      let from = stringLength prefix; in if substring 0 from text == prefix then substring from (stringLength text) text else text;
    versionAtLeast = version: least: builtins.compareVersions version least >= 0;
  };
in
lib
