-- wrk -s post.lua URL -- FILE: post the lines of FILE in turn, then print what was counted as one line of JSON.
local requests, threads = {}, {}
sent = 0 -- global: `done` asks each thread for it

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
end

function request()
  sent = sent + 1
  return requests[(sent - 1) % #requests + 1]
end

function done(summary, latency)
  local e, all = summary.errors, 0
  for _, thread in ipairs(threads) do all = all + thread:get("sent") end
  io.write(string.format(
    '\n{"requests": %d, "sent": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "refused": %d, "broken": %d}\n',
    summary.requests, all, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect + e.read + e.write + e.timeout))
end
