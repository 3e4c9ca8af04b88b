(derivation { name = "a"; system = "s"; builder = "b"; hook = x: x; }).drvPath
