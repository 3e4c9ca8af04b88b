({ host }: host) { host = "a"; hots = "b"; }
