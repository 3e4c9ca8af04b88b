let server = { hostname = "x"; port = 1; }; in server.hostnme
