-- Asks keyledger whether a request may go on, and answers in its place when not.
local url = "http://127.0.0.1:8081/v1/authz?service=claude"
local asked = { "x-api-key", "x-goog-api-key", "authorization", "api-key", "user-agent" }
local told = { "x-keyledger-key-id", "x-keyledger-admission-id", "x-keyledger-claude-account-id", "x-keyledger-claude-console-account-id",
  "x-keyledger-gemini-account-id", "x-keyledger-openai-account-id", "x-keyledger-bedrock-account-id" }
local passed = { "content-type", "retry-after", "ratelimit", "ratelimit-policy", "www-authenticate" }

core.register_action("keyledger", { "http-req" }, function(txn)
  local came = txn.http:req_get_headers()
  local headers = { ["x-forwarded-uri"] = { txn.sf:pathq() } } -- for ?key=
  for _, name in ipairs(asked) do
    if came[name] then headers[name] = { came[name][0] } end
  end
  local answer = core.httpclient():get({ url = url, headers = headers, timeout = 5000 })
  for name in pairs(came) do -- a client must not send these itself
    if name:sub(1, 12) == "x-keyledger-" then txn.http:req_del_header(name) end
  end
  for _, name in ipairs(told) do
    if answer.headers and answer.headers[name] then txn.http:req_set_header(name, answer.headers[name][0]) end
  end
  if answer.status == 200 then return end
  local reply = txn:reply({ status = answer.status > 0 and answer.status or 503, body = answer.body or "" })
  for _, name in ipairs(passed) do
    if answer.headers and answer.headers[name] then reply:add_header(name, answer.headers[name][0]) end
  end
  txn:done(reply)
end)
