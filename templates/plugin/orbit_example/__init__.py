"""Count, once for each session: an example of an ORBIT plugin."""
