(builtins.mapAttrs 5 { a = 1; }).a
