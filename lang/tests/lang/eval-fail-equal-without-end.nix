let a = [ a ]; b = [ b ]; in a == b
