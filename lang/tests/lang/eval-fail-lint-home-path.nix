~/notes
