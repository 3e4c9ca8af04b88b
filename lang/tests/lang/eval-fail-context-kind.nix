builtins.appendContext "a" { "/nowhere" = { path = true; }; }
