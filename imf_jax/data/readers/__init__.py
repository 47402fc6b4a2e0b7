"""Readers of datasets: one interface (`base`) and a file per format; `recognise.open_reader` chooses by content."""
