-- A command as a function: the server reads the definitions once.
local KEYS, ARGV
local SCHEMA = @schema
@definitions
local function main()
@body
end
redis.register_function({
  function_name = '@name',
  flags = { @flags },
  callback = function(keys, arguments)
    KEYS, ARGV = keys, arguments
    @begin
    return main()
  end,
})
