-- phase: pre
-- Room in each page for what its jobs become: started and ended, a row lies beside the one it was, and the log holds what
-- is different. Pages that are full already are left as they are.
ALTER TABLE @schema@.job SET (fillfactor = 50);
