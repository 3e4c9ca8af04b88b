builtins.addErrorContext "while doing it" (throw "it")
