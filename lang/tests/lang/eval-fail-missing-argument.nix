({ host, port }: host) { host = "a"; }
