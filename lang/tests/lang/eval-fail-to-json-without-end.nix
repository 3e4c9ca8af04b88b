let a = [ a ]; in builtins.toJSON a
