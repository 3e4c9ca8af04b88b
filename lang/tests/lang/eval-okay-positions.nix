{
  here = builtins.unsafeGetAttrPos "x" { x = 1; };
  cur = __curPos.column;
  none = builtins.unsafeGetAttrPos "y" { };
}
