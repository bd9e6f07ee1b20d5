// Nothing is to be done yet: an action needs a beginning to have an end.
