builtins.fromJSON ''{ "int": -5, "exp": 1e2, "float": 0.5, "esc": "\u00e9\n\/", "pair": "\ud83d\ude00", "list": [ true, null, {} ], "twice": 1, "twice": 2 }''
