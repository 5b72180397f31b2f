-- How a function is called.
SELECT * FROM @schema@.@name@@v@(@params@)
