(derivation { name = "a"; system = "s"; builder = "b"; outputs = [ "x" "x" ]; }).drvPath
