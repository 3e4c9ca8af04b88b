3 - null
