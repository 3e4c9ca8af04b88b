let a = [ a ]; in builtins.toXML a
