"""Operations of our own in C++: compiled by tools/setup, never needed."""
