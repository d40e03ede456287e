// One side of a browser call. The page only tells what happened and when; what it means is decided by browsers.py.
'use strict';

const { DisconnectReason, Room, RoomEvent, Track } = LivekitClient;
const SILENCE = 0.25; // s, as everywhere; here for the line on the page only
const TICK = 100; // ms
const CAMERA = { width: 320, height: 180, frameRate: 15 }; // little, so that a small machine carries many calls
const origin = Date.now() - performance.now();
const unix = (ms = performance.now()) => (origin + ms) / 1000;
const show = (id, text) => { document.getElementById(id).textContent = text; };

const me = { room: '', who: '', state: 'new', joinMs: null, failed: null, hungUp: false };
const seen = { frames: 0, last: null, worst: 0, gaps: 0, late: 0 };
let news = { frames: [], events: [] }; // a frame: when it was shown, when its last packet came
let room = null;

function event(name, reason) {
  if (me.hungUp) return;
  news.events.push({ t: unix(), event: name, ...(reason === undefined ? {} : { reason }) });
  show('last', `${new Date().toTimeString().slice(0, 8)} ${name}${reason === undefined ? '' : `: ${reason}`}`);
}

function watch() {
  room.on(RoomEvent.SignalReconnecting, () => event('signal reconnecting'))
    .on(RoomEvent.Reconnecting, () => event('reconnecting'))
    .on(RoomEvent.Reconnected, () => event('reconnected'))
    .on(RoomEvent.Disconnected, (reason) => event('disconnected', DisconnectReason[reason] ?? 'UNKNOWN_REASON'))
    .on(RoomEvent.ConnectionStateChanged, (state) => { me.state = state; });
}

function countFrames(video) {
  const frame = (now, about) => {
    const gap = seen.last === null ? 0 : (now - seen.last) / 1000;
    if (gap > SILENCE) seen.gaps += 1;
    seen.worst = Math.max(seen.worst, gap);
    seen.last = now;
    seen.frames += 1;
    news.frames.push([unix(now), unix(about.receiveTime ?? now)]);
    video.requestVideoFrameCallback(frame);
  };
  video.requestVideoFrameCallback(frame);
}

function line() {
  const age = seen.last === null ? null : (performance.now() - seen.last) / 1000;
  show('what', `${me.room} · ${me.who} · ${me.failed ?? me.state}`);
  show('figures', me.who === 'publisher'
    ? 'fake camera and microphone'
    : `${seen.frames} frames, ${seen.gaps} gaps, longest ${seen.worst.toFixed(2)} s, last frame ${age === null ? 'none yet' : `${age.toFixed(1)} s ago`}`);
}

// How late the timers of this page are: then a silence may be the client's own.
let due = performance.now() + TICK;
setInterval(() => {
  const now = performance.now();
  seen.late = Math.max(seen.late, now - due);
  due = now + TICK;
  line();
}, TICK);

window.start = async ({ url, token, name, publish }) => {
  const video = document.getElementById('video');
  Object.assign(me, { room: name, who: publish ? 'publisher' : 'subscriber' });
  room = new Room({
    videoCaptureDefaults: { resolution: CAMERA },
    publishDefaults: { simulcast: false, videoCodec: 'vp8', videoEncoding: { maxBitrate: 200_000, maxFramerate: CAMERA.frameRate } },
  });
  watch();
  if (!publish) {
    countFrames(video);
    room.on(RoomEvent.TrackSubscribed, (track) => { if (track.kind === Track.Kind.Video) track.attach(video); });
  }
  try {
    const begun = performance.now();
    await room.connect(url, token);
    me.joinMs = Math.round(performance.now() - begun);
    if (publish) {
      await room.localParticipant.enableCameraAndMicrophone();
      room.localParticipant.getTrackPublication(Track.Source.Camera).track.attach(video);
    }
  } catch (error) {
    me.failed = `could not ${me.joinMs === null ? 'join' : 'publish'}: ${error.message}`;
  }
};

// What is new since the last time; times are unix seconds.
window.tell = () => {
  const told = { ...news, state: me.state, joinMs: me.joinMs, failed: me.failed, lagMs: Math.round(seen.late) };
  news = { frames: [], events: [] };
  seen.late = 0;
  return told;
};

// Which way the video goes now: the candidate pair in use and what was lost on it.
window.path = async () => {
  const people = me.who === 'publisher' ? [room.localParticipant] : [...room.remoteParticipants.values()];
  const track = people.map((one) => one.getTrackPublication(Track.Source.Camera)?.track).find(Boolean);
  const stats = [...(await track?.getRTCStatsReport() ?? new Map()).values()];
  const of = (id) => stats.find((entry) => entry.id === id) ?? {};
  const pair = of(stats.find((entry) => entry.type === 'transport')?.selectedCandidatePairId);
  const [local, remote] = [of(pair.localCandidateId), of(pair.remoteCandidateId)];
  const media = stats.find((entry) => entry.type === 'inbound-rtp') ?? {};
  return {
    transport: local.candidateType === 'relay' ? `turn/${local.relayProtocol}` : local.protocol ?? null,
    remote: remote.address ? `${remote.address}:${remote.port}` : null,
    rtt_ms: pair.currentRoundTripTime === undefined ? null : Math.round(1000 * pair.currentRoundTripTime),
    packets: media.packetsReceived ?? null, lost_packets: media.packetsLost ?? null, decoded: media.framesDecoded ?? null,
    track: track ? (track.isMuted ? 'muted' : 'there') : 'none', // of a silent call this tells which side to look at
  };
};

window.hangUp = async () => {
  me.hungUp = true;
  await room?.disconnect();
};
