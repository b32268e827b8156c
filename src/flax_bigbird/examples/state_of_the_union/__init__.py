"""`bigbird demo`: a BigBird trained from nothing on whole State of the Union addresses."""
