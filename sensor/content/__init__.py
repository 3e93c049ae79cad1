"""Content releases: made, signed, checked, kept, rolled out in stages and taken back."""
