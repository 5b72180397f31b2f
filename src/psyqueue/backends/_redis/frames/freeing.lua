-- A write that frees nothing: after it a server before 7.0 lets a script grow, however full it is.
redis.call('DEL', KEYS[1] .. 'none')
