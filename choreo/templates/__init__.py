"""What `choreo new` writes out under another name. It is a real service, checked as every other."""
