builtins.toXML {
  number = 1.5;
  text = "<&>\"'\n";
  list = [ null true ./a ];
  plain = x: x;
  pattern = { a, b ? 1, ... }@all: a;
}
