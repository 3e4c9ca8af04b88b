with { package = 1; }; pakage
