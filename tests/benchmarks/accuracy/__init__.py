"""Who is named, rightly or wrongly, measured on a folder of labelled pictures."""
