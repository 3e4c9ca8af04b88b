builtins.getEnv 5
