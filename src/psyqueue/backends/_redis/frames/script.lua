-- A command as a script: all of it is read with each call.
local KEYS, ARGV = KEYS, ARGV
local SCHEMA = @schema
@definitions
local function main()
@body
end
@begin
return main()
