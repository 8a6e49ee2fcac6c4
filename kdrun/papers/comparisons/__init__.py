"""Tables of kdrun's own, which compare methods or teachers and reproduce no paper."""
