let s = { __functor = self: self; }; in s 1
