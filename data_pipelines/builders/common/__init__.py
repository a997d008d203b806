"""What all builders share: from downloaded files to records, with a report."""
