builtins.toJSON {
  z = [ 1 1.5 1.0 true null ];
  "a\"b" = "tab\tline\n\\";
  set = { outPath = "out"; ignored = x: x; };
  text = { __toString = self: "from ${self.name}"; name = "me"; };
}
