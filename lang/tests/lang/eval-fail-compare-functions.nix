(x: x) <= (y: y)
