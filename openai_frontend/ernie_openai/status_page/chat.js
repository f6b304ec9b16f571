// One conversation with /v1/chat/completions: what is sent, and what comes back piece by piece. Knows no element of the page.

/** Yields the chunks of a streamed answer. Throws an Error with the server's own words if there are any. */
export async function* stream(body, headers, signal) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw new Error(await words(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    const events = pending.split("\n\n");
    pending = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}

async function words(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

/** An answer as it grows: thought, text and calls. */
export class Answer {
  thought = "";
  text = "";
  calls = [];
  finish = null;
  usage = null;
  timings = null;

  add(chunk) {
    this.usage = chunk.usage ?? this.usage;
    this.timings = chunk.timings ?? this.timings;
    const choice = chunk.choices[0];
    if (!choice) return;
    this.finish = choice.finish_reason ?? this.finish;
    this.thought += choice.delta.reasoning_content ?? "";
    this.text += choice.delta.content ?? "";
    for (const delta of choice.delta.tool_calls ?? []) {
      const call = (this.calls[delta.index] ??= { id: null, type: "function", function: { name: "", arguments: "" } });
      call.id = delta.id ?? call.id;
      call.function.name += delta.function?.name ?? "";
      call.function.arguments += delta.function?.arguments ?? "";
    }
  }

  /** As it goes back to the server with the next message. */
  message() {
    const message = { role: "assistant", content: this.text };
    if (this.thought) message.reasoning_content = this.thought;
    if (this.calls.length) message.tool_calls = this.calls;
    return message;
  }
}

/** A user's message, with an image if there is one. */
export function userMessage(text, image) {
  if (!image) return { role: "user", content: text };
  return { role: "user", content: [{ type: "image_url", image_url: { url: image } }, { type: "text", text }] };
}
