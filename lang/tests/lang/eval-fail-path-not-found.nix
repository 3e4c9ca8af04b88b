<nowhere/to/be-found>
