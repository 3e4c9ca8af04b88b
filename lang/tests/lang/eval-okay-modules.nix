# A fixpoint with overlays, as package collections are made.
let
  fix = f: let x = f x; in x;
  extends = o: f: self: let super = f self; in super // o self super;
  base = self: { a = 1; b = self.a + 1; c = { inherit (self) a b; }; };
  o1 = self: super: { a = super.a * 10; };
  o2 = self: super: { d = self.b + super.c.b; };
in fix (extends o2 (extends o1 base))
