# The value of a flake from its lock: each node becomes its source or, where it is a flake, what its outputs function gives for the
# values of the nodes that it lists. Everything is lazy: an input that no output needs is not fetched.
{
  # The lock as JSON. Each node but the root has `owner`, the key of the node that lists it.
  lock,
  # The source of the flake itself, where it is, and the directory in it.
  root,
  rootPlace,
  rootDir,
  # Fetches: where relative paths start, what is locked. Gives what is known about the source, and its place.
  fetch,
}:
let
  data = builtins.fromJSON lock;

  # The key that a path of inputs leads to, from the root.
  follow = builtins.foldl' (key: name: target data.nodes.${key}.inputs.${name}) data.root;
  target = input: if builtins.isList input then follow input else input;

  below = path: dir: if dir == "" then path else path + "/" + dir;

  make = key: node:
    let
      locked = node.locked;
      relative = locked.type or "" == "path" && builtins.substring 0 1 locked.path != "/";
      # A path inside the tree of another input, without a source of its own.
      inside = key != data.root && relative && node ? parent;
      around = nodes.${follow node.parent};

      fetched = fetch (if relative then nodes.${node.owner}.place else "") (removeAttrs locked [ "dir" ]);

      sourceInfo =
        if key == data.root then root
        else if inside then around.sourceInfo
        else fetched.info;

      dir =
        if key == data.root then rootDir
        else if inside then below locked.path (locked.dir or "")
        else locked.dir or "";

      outPath = below (if inside then around.outPath else sourceInfo.outPath) dir;

      # The same for the code here: looking at `outPath` would say that the program depends on the whole source.
      place = below
        (if key == data.root then rootPlace else if inside then around.place else fetched.place)
        dir;

      flake = import (place + "/flake.nix");

      inputs = builtins.mapAttrs (_: input: nodes.${target input}.value) (node.inputs or { });

      outputs = flake.outputs (inputs // { self = value; });

      value =
        if node.flake or true then
          outputs // sourceInfo // {
            inherit outPath inputs outputs sourceInfo;
            _type = "flake";
          }
        else
          sourceInfo // { inherit sourceInfo outPath; };
    in
    { inherit value sourceInfo outPath place; };

  nodes = builtins.mapAttrs make data.nodes;
in
nodes.${data.root}.value
