"""`make bench`: our figures beside the real yagna's, from one run on one machine and one relay."""
