{ name = 1; }.nam
